"""Features: from the waveform to the network's input, batched, with gradients that reach the waveform.

Every module takes padded tensors with ``num_samples`` or ``lengths`` and reads no padded value: what an utterance gives
does not depend on its batch.  Padded frames of an output are exactly 0.
"""
