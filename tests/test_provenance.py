"""Promises of a film's manifest: any C2PA reader reads it, it names what was altered, and a changed byte is found."""

import errno
import json
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import c2pa
import numpy as np
import pytest
from conftest import make_film, make_speech, run_tool
from made_films import portrait
from numpy.typing import NDArray

from musetalk_cli import cli
from musetalk_cli.config import SignConfig
from musetalk_cli.errors import ResourceError, UsageError
from musetalk_cli.provenance.identity import algorithm, identity
from musetalk_cli.provenance.read import read_provenance
from musetalk_cli.provenance.sign import TRIAL, check_signing
from musetalk_cli.provenance.statement import COMPOSITE

CAST = """
[[person]]
name = "anna"
faces = ["A"]
voice = "fr.wav"
consent = "release form 12"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """film.mp4 of 12 frames and film.mkv, fr.wav, cast.toml; what `dub` makes of them: dubbed.mp4 with its report, dubbed.mkv."""
    folder = tmp_path_factory.mktemp("provenance")
    make_film(folder / "film.mp4", frames=12, size=(192, 192), picture=lambda number: portrait(192, 192))
    run_tool("-i", str(folder / "film.mp4"), "-c", "copy", str(folder / "film.mkv"))
    make_speech(folder / "fr.wav", seconds=0.5)
    (folder / "cast.toml").write_text(CAST)
    assert dub(folder, "film.mp4", "dubbed.mp4", "--cast", str(folder / "cast.toml"), "--report") == 0
    assert dub(folder, "film.mkv", "dubbed.mkv", "--audio", str(folder / "fr.wav"), "--no-report") == 0
    return folder


def dub(folder: Path, film: str, output: str, *flags: str) -> int:
    """In a work folder of its own each."""
    work = ["--work-dir", str(folder / f"work-{output}"), "--progress", "none"]
    return cli.run(["dub", str(folder / film), "-o", str(folder / output), *work, *flags])


def musetalk(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def manifest_of(report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = report["manifests"][report["active_manifest"]]
    return found


def assertion(manifest: dict[str, Any], label: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one["data"] for one in manifest["assertions"] if one["label"] == label)
    return found


def test_the_standards_own_reader_reads_it_and_finds_it_valid(folder: Path) -> None:
    with c2pa.Reader(folder / "dubbed.mp4") as reader:
        told = json.loads(reader.json())
    assert told["validation_state"] == "Valid"
    assert [one["code"] for one in told["validation_status"]] == ["signingCredential.untrusted"]  # the machine's own certificate
    actions = assertion(manifest_of(told), "c2pa.actions.v2")["actions"]
    assert [one["action"] for one in actions] == ["c2pa.opened", "c2pa.edited", "c2pa.dubbed"]
    assert actions[1]["digitalSourceType"] == COMPOSITE
    assert assertion(manifest_of(told), "org.musetalk.ai-modified")["ai_modified"] is True


def test_it_says_that_the_mouths_carry_an_invisible_mark(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dub(folder, "film.mp4", "marked.mp4", "--audio", str(folder / "fr.wav"), "--no-report", "--watermark") == 0
    capsys.readouterr()
    assert musetalk("provenance", folder / "marked.mp4") == 0
    assert "musetalk detect" in capsys.readouterr().out
    with c2pa.Reader(folder / "marked.mp4") as reader:
        told = json.loads(reader.json())
    assert told["validation_state"] == "Valid"
    assert assertion(manifest_of(told), "c2pa.actions.v2")["actions"][-1]["action"] == "c2pa.watermarked.unbound"
    for name, watermark in (("dubbed.mp4", False), ("marked.mp4", True)):
        read = read_provenance(folder / name)
        assert read is not None
        assert read.watermark is watermark


def test_a_sidecar_is_read_with_the_film_beside_it(folder: Path) -> None:
    with (folder / "dubbed.mkv").open("rb") as film:
        beside = (folder / "dubbed.mkv.c2pa").read_bytes()
        with c2pa.Reader("video/x-matroska", film, beside) as reader:
            assert reader.get_validation_state() == "Valid"
    assert musetalk("verify", folder / "film.mkv", folder / "dubbed.mkv") == 0


def test_altered_stretches_are_those_of_the_report(folder: Path) -> None:
    report = json.loads((folder / "dubbed.report.json").read_text())
    listed = [
        (shot["shot"], track["track"], track["person"], track["start"], track["stop"])
        for shot in report["shots"]
        for track in shot["tracks"]
        if track["what"] != "passed through"
    ]
    found = read_provenance(folder / "dubbed.mp4")
    assert found is not None and found.intact and listed
    assert [(one.shot, one.track, one.person, one.start, one.stop) for one in found.altered] == listed


def test_it_names_inputs_models_persons_consent_and_regions(folder: Path) -> None:
    found = read_provenance(folder / "dubbed.mp4")
    assert found is not None
    digests = {
        name: subprocess.check_output(["sha256sum", folder / name], text=True).split()[0] for name in ("film.mp4", "fr.wav")
    }
    assert {one.name: one.sha256 for one in found.inputs} == digests
    assert found.model == "lite" and len(found.model_files) == 6
    assert {(one.person, one.consent) for one in found.altered} == {("anna", "release form 12")}
    region = found.altered[0].region
    assert 0 <= region.x < region.x + region.width <= 192 and 0 < region.height < 192
    assert any("consent" in line and "release form 12" in line for line in found.lines())


def test_nothing_is_altered_outside_of_the_regions_it_names(folder: Path) -> None:
    assert dub(folder, "film.mp4", "exact.mkv", "--audio", str(folder / "fr.wav"), "--no-report", "--crf", "0", "--no-copy") == 0
    found = read_provenance(folder / "exact.mkv")
    assert found is not None and found.altered
    named = np.zeros((12, 192, 192), bool)
    for one in found.altered:
        box = one.region
        rows, columns = slice(box.y, box.y + box.height), slice(box.x, box.x + box.width)
        named[one.start : one.stop, rows, columns] = True
    changed = lumas(folder / "film.mp4") != lumas(folder / "exact.mkv")
    assert changed.any() and not (changed & ~named).any()


def lumas(path: Path) -> NDArray[np.uint8]:
    """(N, H, W)"""
    with av.open(str(path)) as film:
        return np.stack([frame.reformat(format="gray").to_ndarray() for frame in film.decode(video=0)])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", ["dubbed.mp4", "dubbed.mkv"])
def test_a_flipped_byte_is_found(folder: Path, tmp_path: Path, name: str, share: float) -> None:
    data = bytearray((folder / name).read_bytes())
    data[int(share * len(data)) + 5] ^= 1
    (tmp_path / name).write_bytes(data)
    if (folder / f"{name}.c2pa").exists():
        shutil.copy(folder / f"{name}.c2pa", tmp_path)
    found = read_provenance(tmp_path / name)
    assert found is None or not found.intact
    assert musetalk("provenance", tmp_path / name) == 7


@pytest.mark.parametrize("which", [0, 1, 2, 5, -1])
def test_a_switch_in_it_that_means_nothing_is_found(folder: Path, tmp_path: Path, which: int) -> None:
    """In the description of each box, which c2pa reads over."""
    data = bytearray((folder / "dubbed.mp4").read_bytes())
    switches = [index + 20 for index in range(len(data) - 20) if data[index : index + 4] == b"jumd"]
    data[switches[which]] ^= 0x40
    (tmp_path / "a.mp4").write_bytes(data)
    found = read_provenance(tmp_path / "a.mp4")
    assert found is not None and found.faults


def test_something_after_the_manifest_beside_a_film_is_found(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "dubbed.mkv", tmp_path)
    (tmp_path / "dubbed.mkv.c2pa").write_bytes((folder / "dubbed.mkv.c2pa").read_bytes() + b"x")
    found = read_provenance(tmp_path / "dubbed.mkv")
    assert found is not None and found.faults == ("the manifest's envelope was changed",)


@pytest.mark.parametrize("at", range(-41, 200, 5))
def test_a_changed_byte_of_its_envelope_is_found(folder: Path, tmp_path: Path, at: int) -> None:
    """Some of which c2pa reads over."""
    data = bytearray((folder / "dubbed.mp4").read_bytes())
    data[data.index(b"jumb") - 4 + at] ^= 4
    (tmp_path / "a.mp4").write_bytes(data)
    found = read_provenance(tmp_path / "a.mp4")
    assert found is None or not found.intact


def test_a_changed_byte_of_its_padding_is_found(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "dubbed.mp4").read_bytes())
    data[data.index(b"cpad") + 300] ^= 4
    (tmp_path / "a.mp4").write_bytes(data)
    found = read_provenance(tmp_path / "a.mp4")
    assert found is not None and found.faults == ("the manifest's envelope was changed",)


def test_a_changed_byte_behind_its_padding_is_found(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "dubbed.mp4").read_bytes())
    at = next(at for at in range(data.index(b"cpad"), len(data)) if data[at] == 0xF6)  # null: what was signed is not within
    data[at] ^= 1
    (tmp_path / "a.mp4").write_bytes(data)
    found = read_provenance(tmp_path / "a.mp4")
    assert found is not None and found.faults == ("the manifest's envelope was changed",)


def test_a_changed_word_of_the_manifest_is_found(folder: Path, tmp_path: Path) -> None:
    data = (folder / "dubbed.mp4").read_bytes()
    assert data.count(b"release form 12") == 1
    (tmp_path / "a.mp4").write_bytes(data.replace(b"release form 12", b"release form 99"))
    found = read_provenance(tmp_path / "a.mp4")
    assert found is not None and not found.intact


def test_a_manifest_of_another_tool_is_not_called_a_changed_film(folder: Path, tmp_path: Path, capsys: Any) -> None:
    who, camera = identity(None, None), tmp_path / "camera.mp4"
    info = c2pa.C2paSignerInfo(algorithm(who).encode(), who.chain.read_bytes(), who.key.read_bytes(), None)
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder({**TRIAL, "format": "video/mp4"}) as builder:
        with (folder / "film.mp4").open("rb") as read, camera.open("w+b") as written:
            builder.sign(signer, "video/mp4", read, written)
    assert musetalk("provenance", camera) == 7
    told = capsys.readouterr().out
    assert "as it was signed, by another tool" in told and "NOT" not in told and "altered" not in told
    assert musetalk("verify", folder / "film.mp4", camera, "--no-decode") == 7
    assert "says nothing of a dub" in capsys.readouterr().out


def test_the_same_work_elsewhere_gives_the_same_bytes(folder: Path) -> None:
    assert dub(folder, "film.mp4", "again.mp4", "--cast", str(folder / "cast.toml"), "--no-report") == 0
    assert dub(folder, "film.mkv", "again.mkv", "--audio", str(folder / "fr.wav"), "--no-report") == 0
    for one, other in (("dubbed.mp4", "again.mp4"), ("dubbed.mkv", "again.mkv"), ("dubbed.mkv.c2pa", "again.mkv.c2pa")):
        assert (folder / one).read_bytes() == (folder / other).read_bytes()


def test_without_provenance_it_warns_is_recorded_and_verify_asks_for_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, work = folder / "silent.mkv", folder / "silent"
    (folder / "silent.mkv.c2pa").write_bytes(b"of an older film")
    flags = ("--audio", folder / "fr.wav", "-o", output, "--work-dir", work, "--no-report", "--no-provenance")
    assert musetalk("dub", folder / "film.mkv", *flags) == 0
    assert "no provenance was asked for" in capsys.readouterr().err
    assert "no provenance was asked for" in (work / "run.jsonl").read_text()
    assert not (folder / "silent.mkv.c2pa").exists()
    assert musetalk("verify", folder / "film.mkv", output, "--no-decode") == 7
    assert musetalk("verify", folder / "film.mkv", output, "--no-decode", "--no-provenance") == 0
    assert musetalk("provenance", output) == 7


def test_a_lost_sidecar_is_put_back_by_the_same_command(folder: Path) -> None:
    sidecar = folder / "dubbed.mkv.c2pa"
    was = sidecar.read_bytes()
    sidecar.unlink()
    assert musetalk("provenance", folder / "dubbed.mkv") == 7
    assert dub(folder, "film.mkv", "dubbed.mkv", "--audio", str(folder / "fr.wav"), "--no-report") == 0
    assert sidecar.read_bytes() == was


def test_the_report_tells_of_the_manifest(folder: Path) -> None:
    assert "Provenance: C2PA manifest (altered stretches: 1), signed by" in (folder / "dubbed.report.html").read_text()


def test_the_key_is_its_owners_alone_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    who = identity(None, None)
    assert stat.S_IMODE(who.key.stat().st_mode) == 0o600
    key = who.key.read_bytes()
    assert identity(None, None) == who and who.key.read_bytes() == key
    assert [path.name for path in who.key.parents[1].iterdir()] == ["identity"]


def test_a_studios_certificate_signs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "studio"))
    studio = identity(None, None)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "here"))
    flags = ("--sign-cert", str(studio.chain), "--sign-key", str(studio.key))
    assert dub(folder, "film.mp4", "studio.mp4", "--audio", str(folder / "fr.wav"), "--no-report", *flags) == 0
    found = read_provenance(folder / "studio.mp4")
    assert found is not None and found.intact and not found.trusted
    assert not (tmp_path / "here" / "musetalk" / "identity").exists()


def test_names_in_a_manifest_do_not_command_the_terminal(folder: Path) -> None:
    found = read_provenance(folder / "dubbed.mp4")
    assert found is not None
    lines = replace(found, signer="\x1b[2J", altered=(replace(found.altered[0], person="anna\n\x07"),)).lines()
    assert lines and all(line.isprintable() for line in lines)


def test_a_disk_that_fails_under_the_certificate_is_no_wrong_flag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    who = identity(None, None)

    def fails(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(ResourceError):
        algorithm(who)


def test_half_a_pair_and_another_ones_key_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "one"))
    one = identity(None, None)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other"))
    other = identity(None, None)
    with pytest.raises(UsageError, match="only one of certificate and key"):
        identity(one.chain, None)
    with pytest.raises(UsageError, match="not the key of"):
        identity(one.chain, other.key)
    with pytest.raises(UsageError, match="Unable to load PEM"):
        identity(one.key, one.key)


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *(str(one) for one in arguments)], check=True, capture_output=True)


def test_a_key_as_openssl_writes_it_signs(tmp_path: Path) -> None:
    """In the older forms, `BEGIN EC PRIVATE KEY` and `BEGIN RSA PRIVATE KEY`, with the curve's parameters before it."""
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-out", tmp_path / "ec.key")
    openssl("genrsa", "-traditional", "-out", tmp_path / "rsa.key", "2048")
    for name in ("ec", "rsa"):
        key = tmp_path / f"{name}.key"
        assert b"EC PRIVATE KEY" in key.read_bytes() or b"RSA PRIVATE KEY" in key.read_bytes()
        check_signing(SignConfig(True, issued(tmp_path, key), key))


def test_a_certificate_that_readers_would_refuse_is_told_before_the_work(folder: Path, tmp_path: Path, capsys: Any) -> None:
    cert, key, work = tmp_path / "self.pem", tmp_path / "self.key", tmp_path / "work"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=self", "-keyout", key, "-out", cert)
    flags = ("--audio", folder / "fr.wav", "-o", tmp_path / "a.mp4", "--work-dir", work, "--sign-cert", cert, "--sign-key", key)
    assert musetalk("dub", folder / "film.mp4", *flags) == 2
    assert "self-signed" in capsys.readouterr().err
    assert not list(work.glob("*/*/result.json"))


def test_what_keeps_a_manifest_from_being_kept_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    identity(None, None)
    (tmp_path / "musetalk" / "manifests").write_text("not a folder")
    with pytest.raises(ResourceError, match="manifests"):
        check_signing(SignConfig())


def test_a_damaged_certificate_of_this_machine_says_what_to_delete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    identity(None, None).chain.write_text("damaged")
    with pytest.raises(UsageError) as refused:
        check_signing(SignConfig())
    assert refused.value.cure.startswith(f"delete {tmp_path}")


def test_a_damaged_certificate_of_this_machine_accuses_no_film(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    chain = identity(None, None).chain
    for damaged in (b"damaged", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        chain.write_bytes(damaged)
        found = read_provenance(folder / "dubbed.mp4")
        assert found is not None and found.intact and not found.trusted


def issued(folder: Path, key: Path) -> Path:
    """A certificate for this key from an authority made for it."""
    extensions = folder / "leaf.cnf"
    extensions.write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=emailProtection\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    authority, asked, cert = folder / "ca.pem", folder / "asked.csr", key.with_suffix(".pem")
    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/O=Studio/CN=ca",
        "-keyout",
        folder / "ca.key",
        "-out",
        authority,
    )
    openssl("req", "-new", "-key", key, "-subj", "/O=Studio/CN=signer", "-out", asked)
    by = ("-CA", authority, "-CAkey", folder / "ca.key", "-CAcreateserial", "-extfile", extensions)
    openssl("x509", "-req", "-in", asked, *by, "-out", cert)
    return cert
