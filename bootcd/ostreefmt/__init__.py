"""Names, documents and objects of an ostree repository as bootc lays it out. No I/O."""
