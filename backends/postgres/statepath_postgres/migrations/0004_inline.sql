-- A record of up to 8 KB stays in its row, as the commit of one save mostly is: one that is stored apart costs rows and an
-- index entry more.
ALTER TABLE statepath.log SET (toast_tuple_target = 8160);
