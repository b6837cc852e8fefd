"""The keys that the components of the local Airflow share."""

from cryptography.fernet import Fernet, MultiFernet

from demo.airflow import LocalAirflow


def keys(home):
    """What its components read, each time they are started."""
    found = LocalAirflow(home, environment={}).environment["AIRFLOW__CORE__FERNET_KEY"]
    return MultiFernet([Fernet(key) for key in found.split(",")])


def test_what_any_component_encrypts_every_other_one_reads_also_after_a_restart(tmp_path):
    sealed = keys(tmp_path).encrypt(b"a connection's password")
    assert keys(tmp_path).decrypt(sealed) == b"a connection's password"


def test_what_an_earlier_version_encrypted_is_still_read(tmp_path):
    made = Fernet.generate_key()
    (tmp_path / "airflow").mkdir()
    configuration = f"[core]\nfernet_key = {made.decode()}\n[api]\nport = 1\n"
    (tmp_path / "airflow" / "airflow.cfg").write_text(configuration)
    sealed = Fernet(made).encrypt(b"a connection's password")
    assert keys(tmp_path).decrypt(sealed) == b"a connection's password"
