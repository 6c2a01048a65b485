
-- {display_name}
CREATE OR REPLACE FUNCTION {schema}.{handler}() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- Texts of values are compared: a writer's settings must not make different values look the same.
SET extra_float_digits = 1 SET datestyle = 'ISO'
-- If a policy hides rows that a `TRUNCATE` removes, it fails.
SET row_security = off AS {tag}{body}{tag};
DO {tag}
DECLARE
    watched regclass := to_regclass({table_text});
    kind "char";
    owner oid;
BEGIN
    SELECT relkind, relowner INTO kind, owner FROM pg_class WHERE oid = watched;
    IF watched IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'GC001', MESSAGE = format('table `%s` does not exist', {display_text});
    ELSIF kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = 'GC001',
            MESSAGE = format('`%s` is no table: watch the tables that it takes its rows from', {display_text});
    ELSIF watched IN (to_regclass({schema_text} || '.outbox'), to_regclass({schema_text} || '.installation')) THEN
        RAISE EXCEPTION USING ERRCODE = 'GC001',
            MESSAGE = format('`%s` belongs to groupcache itself', {display_text});
    ELSIF NOT pg_has_role(owner, 'USAGE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('role `%s` does not own table `%s`, so it cannot create triggers on it', current_user,
                {display_text});
    END IF;
{checks}    PERFORM {schema}.attach(watched, {handler_text}::regprocedure, ARRAY[{before}]::regprocedure[]);
END
{tag};
