"""The kinds of acoustic models, one file each: the name of the file is the name of the kind."""
