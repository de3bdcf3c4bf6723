-- `exact`: the document itself, as UTF-8, where `data` would not give it back: jsonb cannot hold it, or writes a number in
-- another form. Rows of before do not have it, so every view is made anew.
ALTER TABLE statepath.documents ADD COLUMN exact bytea;
UPDATE statepath.views SET shown = -1;
