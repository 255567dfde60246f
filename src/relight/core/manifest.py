"""Names of the manifest that both sides need: who writes it and who reads it."""

from __future__ import annotations

SCHEMA = "relight/manifest/1"
# The key in the checkpoint's dictionary; in a plain state_dict, the key in its `_metadata`.
KEY = "relight_manifest"
