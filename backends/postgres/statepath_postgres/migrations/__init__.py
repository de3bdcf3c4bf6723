"""The schema, as numbered SQL files; what stands in a release is never changed afterwards."""
