"""What a fetcher and whoever sends it to the network say to each other."""

from __future__ import annotations

# The headers of a request that are the fetcher's alone: by which proxy it goes, and which certificates count.
# They go no further, nor does what it says beside an answer (FAULT in tbdiff.connection).
PROXY, CERTIFICATES = "Tb-Proxy", "Tb-Certificates"
# What one that was started says when it has given up its rights.
READY = b"ready"
