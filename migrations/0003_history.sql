-- What a resource was before a revision is read by its key.
create index changes_by_key on changes (kind, mesh, name, zone, revision desc);

---- create above / drop below ----

drop index changes_by_key;
