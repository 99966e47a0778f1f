"""What was measured: tables of a run, utterances, word errors."""
