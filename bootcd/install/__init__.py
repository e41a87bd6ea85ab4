"""Installation of an image to a disk or to a prepared file system, by the conventions of `bootc install`."""
