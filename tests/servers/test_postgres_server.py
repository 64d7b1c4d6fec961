"""The server that tests run against does what they ask of it."""

import subprocess

import pytest

from tests.servers.postgres import PostgresServer, fresh_database, sql


def test_a_server_is_restarted_and_killed_on_its_own_port(own_postgres: PostgresServer) -> None:
    url, pid = own_postgres.url(), own_postgres.pid
    own_postgres.sql("CREATE TABLE kept (n INTEGER)")
    for end in (own_postgres.stop, own_postgres.kill):
        own_postgres.sql("INSERT INTO kept VALUES (1)")
        end()
        with pytest.raises(subprocess.CalledProcessError):
            own_postgres.sql("SELECT 1")
        own_postgres.start()
    assert own_postgres.url() == url
    assert own_postgres.pid != pid
    assert own_postgres.sql("SELECT count(*) FROM kept") == ["2"]
    assert sql(own_postgres.socket_url(), "SELECT count(*) FROM kept") == ["2"]


def test_a_fresh_database_is_empty_and_goes_away(postgres_server_url: str) -> None:
    tables = "SELECT * FROM pg_tables WHERE schemaname = 'public'"
    for _ in range(2):
        with fresh_database(postgres_server_url) as url:
            assert sql(url, tables) == []
            sql(url, "CREATE TABLE x (n INTEGER)")
    names = sql(postgres_server_url, "SELECT datname FROM pg_database")
    assert url.rpartition("/")[2] not in names
