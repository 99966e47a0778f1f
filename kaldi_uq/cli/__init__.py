"""The commands: ``kaldi-uq COMMAND``.  One module a command, imported only when it runs."""
