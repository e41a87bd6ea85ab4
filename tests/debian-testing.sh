# Sourced: packages of a newer Debian than the machine's, unpacked in a directory beside the system.
# apt verifies them as it does its own.

# fetch_packages WORK PACKAGE...: download the packages and unpack them below WORK/root.
fetch_packages() {
  local work=$1 suite=forky mirror package
  shift
  mkdir -p "$work"/{lists/partial,cache/archives/partial,debs,root}
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/$')
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror%/} $suite main" >"$work/sources.list"
  local apt=(-qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::State::lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache"
    -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o APT::Sandbox::User=root)
  apt-get "${apt[@]}" update
  (cd "$work/debs" && apt-get "${apt[@]}" download "$@")
  for package in "$work"/debs/*.deb; do dpkg-deb --extract "$package" "$work/root"; done
  rm -rf "$work"/{lists,cache,debs,sources.list}
}
