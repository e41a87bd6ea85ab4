"""OCI and docker formats: references, manifests, authentication, layer archives. No I/O."""
