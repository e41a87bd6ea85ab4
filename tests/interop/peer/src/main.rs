#[tokio::main]
async fn main() -> std::process::ExitCode {
    match ostree_ext::cli::run_from_iter(std::env::args_os()).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
