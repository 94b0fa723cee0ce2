-- What was authored and what zones report, as it is now. The order of the key
-- is the order of lists; "C" compares bytes, like every other store does.
create table resources (
    kind     text collate "C" not null,
    mesh     text collate "C" not null,
    name     text collate "C" not null,
    zone     text collate "C" not null,
    labels   jsonb not null,
    spec     bytea not null,
    status   bytea,
    revision bigint not null,
    created  timestamptz not null,
    modified timestamptz not null,
    primary key (kind, mesh, name, zone)
);

-- Every change in the order of commits, appended only; compaction drops the oldest.
create table changes (
    revision bigint primary key,
    digest   text not null,
    deleted  boolean not null,
    kind     text collate "C" not null,
    mesh     text collate "C" not null,
    name     text collate "C" not null,
    zone     text collate "C" not null,
    labels   jsonb not null,
    spec     bytea,
    status   bytea,
    created  timestamptz,
    author   text not null,
    time     timestamptz not null
);

-- One row: the last change and the one up to which the log was compacted.
-- Writers lock it, which makes revisions gapless and puts them in commit order.
create table head (
    singleton          boolean primary key default true check (singleton),
    revision           bigint not null default 0,
    digest             text not null default '',
    compacted_revision bigint not null default 0,
    compacted_digest   text not null default ''
) with (fillfactor = 10);

insert into head default values;

---- create above / drop below ----

drop table head;
drop table changes;
drop table resources;
