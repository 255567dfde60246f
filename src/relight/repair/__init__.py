"""Repair: a plan, then a new file, then a proof. The file that is repaired is only ever read."""
