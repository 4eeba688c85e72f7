"""Standard error without what libraries say while an engine is made in this process."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from vllm_pensieve.errors import UsageError


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Hold back what is written to standard error in here, by whatever library; show it if it ends in an error."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except UsageError:
            raise  # says all there is to say
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
