-- The stores of this database. `head` is the last seq of the newest commit and `tip` its id (empty: whatever comes
-- next is taken); who appends replaces both where they stand, so that of two writers one gets the place. Commits whose
-- seqs are below `floor` were trimmed.
CREATE TABLE statepath.stores (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    head bigint NOT NULL DEFAULT 0,
    tip text NOT NULL DEFAULT '',
    floor bigint NOT NULL DEFAULT 1
) WITH (fillfactor = 10);

-- The commits. `record` is the line that a journal on a disk would have.
CREATE TABLE statepath.log (
    store bigint NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (store, first),
    UNIQUE (store, id)
);
ALTER TABLE statepath.log ALTER COLUMN record SET STORAGE EXTERNAL;

-- Everything else: bytes under keys. Each write draws a `version`, which with its moment is the ETag. The bytes of an
-- object that is too large for one value are its `pieces`, and `data` is null.
CREATE SEQUENCE statepath.versions;
CREATE TABLE statepath.objects (
    store bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    size bigint NOT NULL,
    modified timestamptz NOT NULL DEFAULT clock_timestamp(),
    data bytea,
    PRIMARY KEY (store, key)
);
ALTER TABLE statepath.objects ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE statepath.pieces (
    version bigint NOT NULL,
    place bigint NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (version, place)
);
ALTER TABLE statepath.pieces ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE FUNCTION statepath.drop_pieces() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM statepath.pieces WHERE version = OLD.version;
    RETURN NULL;
END
$$;
CREATE TRIGGER replaced AFTER UPDATE ON statepath.objects
    FOR EACH ROW WHEN (OLD.data IS NULL AND OLD.version <> NEW.version) EXECUTE FUNCTION statepath.drop_pieces();
CREATE TRIGGER deleted AFTER DELETE ON statepath.objects
    FOR EACH ROW WHEN (OLD.data IS NULL) EXECUTE FUNCTION statepath.drop_pieces();
