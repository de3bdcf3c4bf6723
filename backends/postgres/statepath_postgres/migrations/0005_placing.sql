-- A commit that depends on nothing goes behind whatever stands there. Its `record` is as it was sent: where it went behind
-- another commit than it says, `prev` is that one's id and `made` when it was made, in microseconds since 1970.
ALTER TABLE statepath.log ADD COLUMN prev text COLLATE "C", ADD COLUMN made bigint;

-- While `placed` is `head`, the newest commit went that way, behind `before`, and was made at `made`; all behind `bound` did.
-- Until `asked` has passed, somebody who loses again and again asks others to let it go first.
ALTER TABLE statepath.stores
    ADD COLUMN placed bigint NOT NULL DEFAULT 0,
    ADD COLUMN bound bigint NOT NULL DEFAULT 0,
    ADD COLUMN before text NOT NULL DEFAULT '',
    ADD COLUMN made bigint NOT NULL DEFAULT 0,
    ADD COLUMN asked timestamptz NOT NULL DEFAULT '-infinity';
