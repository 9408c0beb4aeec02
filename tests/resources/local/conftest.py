from __future__ import annotations

import os

# As the server's own process has it: with more, numpy's threads wait for each other on a busy machine, and a second
# of work becomes half a minute. It counts only if it is set before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
