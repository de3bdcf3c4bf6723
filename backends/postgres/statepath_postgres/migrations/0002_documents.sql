-- The documents as they are after the commit `views.shown`: a view of the log, written right behind it. `data` is null
-- where jsonb cannot hold what JSON can.
CREATE TABLE statepath.documents (
    store bigint NOT NULL,
    collection text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    modified timestamptz NOT NULL,
    data jsonb,
    PRIMARY KEY (store, collection, id)
) WITH (toast_tuple_target = 8160);
CREATE INDEX documents_data ON statepath.documents USING gin (data jsonb_path_ops);
CREATE INDEX documents_without_data ON statepath.documents (store, collection) WHERE data IS NULL;

-- Apart from `stores`, whose rows are replaced by each commit. -1: the log does not say what was before.
CREATE TABLE statepath.views (
    store bigint PRIMARY KEY,
    shown bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
