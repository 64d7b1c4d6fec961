"""Principals, as they are kept with a ticket."""

import pytest

from gateway.auth.principal import Principal, dump, load

SOMEBODY = [
    Principal("anonymous", None, "", None),
    Principal("key:alice", "key:alice", "key:abcdefgh", None),
    Principal("jwt:앨리스 😀", None, "jwt:k-1", 1_900_000_000.5),
]


@pytest.mark.parametrize("principal", SOMEBODY)
def test_a_principal_is_read_as_it_was_written(principal: Principal) -> None:
    assert load(dump(principal)) == principal


def test_who_has_no_credential_is_anonymous() -> None:
    assert [principal.anonymous for principal in SOMEBODY] == [True, False, False]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"name": "a"}', dump(SOMEBODY[1]).replace("null", '"x"')],
)
def test_what_is_no_principal_is_not_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a principal$"):
        load(text)
