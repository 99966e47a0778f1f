"""Proofs that no small change of the audio makes a recogniser write another text."""
