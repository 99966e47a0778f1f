"""Is an attack meaningful?  Checks of one run, of several runs of one model, and the checklist of both."""
