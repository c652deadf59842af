"""The demonstration: a whole life of a device, on a disk that is a file."""
