"""What is made of the results of a run: tables, figures, one HTML page; nothing here changes a number.

====================================  =================================================================
:mod:`.table`                         one table, on the page, as Markdown, LaTeX and CSV
:mod:`.run`, :mod:`.paper`            what was measured, as data frames; what the paper published
:mod:`.robustness`, :mod:`.tables`    which tables there are
:mod:`.findings`                      the headlines
:mod:`.style`                         how figures look
:mod:`.answer`, :mod:`.plots`         figures of many utterances: the picture on top, curves, histograms
:mod:`.examples`, :mod:`.tries`       utterances to show, and commands to try on them
:mod:`.spectrograms`                  figures of these utterances
:mod:`.folder`                        the directory of the report
:mod:`.pictures`                      which figures there are, with names and words
:mod:`.build`                         all that is written
====================================  =================================================================

Each imports only what stands above it.
"""
