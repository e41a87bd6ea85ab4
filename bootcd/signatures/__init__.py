"""Signatures verified: OpenPGP through gpgv, sigstore through `cryptography`, a policy's requirements met.

Blind to where signatures come from; `engine` brings them.
"""
