"""`midm-gateway schema`: write the contract in the formats that tools read."""

import argparse
from pathlib import Path

from gateway.commands.parsing import BadUsage, Commands, described
from gateway.commands.printing import put, put_bytes
from gateway.documents import DOCUMENTS, Document, text_of
from gateway.server import CannotStart

ALL = "all"

DESCRIPTION = f"""\
Write what clients and the gateway may say, as a running gateway serves it at
{", ".join(f"/{document.file}" for document in DOCUMENTS)}."""

EPILOG = """\
examples:
  midm-gateway schema typescript > types.ts
  midm-gateway schema --out contract

exit codes: 0 written, 1 a file cannot be written, 2 wrong usage
"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    command = described(
        commands,
        "schema",
        brief="write the contract: JSON Schema, AsyncAPI, OpenAPI or TypeScript",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.set_defaults(command=run)
    command.add_argument(
        "format",
        nargs="?",
        default=ALL,
        choices=[*(document.format for document in DOCUMENTS), ALL],
        help="(default: %(default)s)",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write files into this folder; without it one format goes to the standard output",
    )


def run(options: argparse.Namespace) -> int:
    """Write; raises `BadUsage`, and `CannotStart` where something cannot be written."""
    wanted = [each for each in DOCUMENTS if options.format in (each.format, ALL)]
    if options.out is not None:
        _into(options.out, wanted)
    elif len(wanted) == 1:
        # In UTF-8, whatever the terminal speaks: it may be a file that is written.
        put_bytes(text_of(wanted[0]))
    else:
        raise BadUsage("all formats are files: say into which folder, with --out DIR")
    return 0


def _into(directory: Path, documents: list[Document]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for document in documents:
            (directory / document.file).write_bytes(text_of(document))
            put(str(directory / document.file))
    except OSError as error:
        raise CannotStart(f"cannot write into {directory}: {error.strerror}") from None
