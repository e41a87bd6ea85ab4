"""Which images a host lets in, and what a signature says: the formats, without files, keys or network.

policy         containers-policy.json(5): what each scope requires
scopes         the scopes an image is in, the most specific first
identity       whether the name a signature claims is one the policy takes for the image
payload        what a simple signature says, JSON
attachment     signatures attached to an image in its registry
stored         signatures kept as files
bundle         sigstore bundles and the log's promises in them
registriesd    containers-registries.d(5): where signatures are kept
"""
