"""Results on disk and what is made of them: ``exp/results.json``, tables, figures, one HTML page.

Nothing is imported here: a stage that only adds a number to ``results.json`` must not wait for matplotlib.
"""
