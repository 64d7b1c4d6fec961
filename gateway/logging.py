"""What is logged, and how."""

import logging
import sys

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def set_up_logging(*, debug: bool) -> None:
    """Log to standard error: our own lines, and what matters of other people's."""
    logging.basicConfig(stream=sys.stderr, format=FORMAT, level=logging.WARNING, force=True)
    for name in ("gateway", "storage", "llm", "protocol"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
