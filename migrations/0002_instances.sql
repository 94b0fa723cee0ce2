-- Who may write in a name: the newest holder alone. A holder is a number.
create table fences (
    name   text collate "C" primary key,
    number bigint not null
);

-- Instances of global that live, each with a record that the others can verify.
create table instances (
    id     text collate "C" primary key,
    record bytea not null,
    seen   timestamptz not null
);

---- create above / drop below ----

drop table instances;
drop table fences;
