"""What a backend needs made for it: `migrate sql`."""

from __future__ import annotations

from statepath.backend import SupportsSchema
from statepath.cli.options import Json, StatePath
from statepath.cli.output import Output
from statepath.cli.running import shown
from statepath.discovery import resolve
from statepath.errors import UnsupportedError
from statepath.settings import Settings


def sql(state_path: StatePath = None, as_json: Json = False) -> None:
    """Print the SQL that makes the schema, for whoever may run it. Connects to nothing."""
    path = Settings.load(state_path).path
    factory, _, url = resolve(path)
    if not isinstance(factory, SupportsSchema):
        raise UnsupportedError(
            f"{shown(path)} needs no schema; give a state path such as postgresql://host/database",
            backend=url.scheme,
        )
    Output(as_json=as_json).result({"sql": factory.schema_sql()}, factory.schema_sql().rstrip("\n"))
