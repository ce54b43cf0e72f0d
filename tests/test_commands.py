import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab import cli, commands

ROOT = Path(__file__).parents[1]


def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/diffusion-lab", *words])
    code = commands.main()
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        code, out, _ = called(monkeypatch, capsys, *words)
        assert code == 0
        named = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
        assert named == list(commands.MODULES)
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert scripts == {*commands.CONFIGURED, "sweep"}


def test_a_wrong_name_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(monkeypatch, capsys, "trian")
    assert (code, out, err) == (1, "", "error: there is no command 'trian'; there is train\n")


def test_no_help_waits_for_torch() -> None:
    probe = (
        "import sys\n"
        "from diffusion_lab.commands import main\n"
        "heavy = {'torch', 'lightning', 'numpy', 'wandb', 'PIL'}\n"
        f"for words in [], *([name] for name in {[*commands.OTHERS, *commands.CONFIGURED]}):\n"
        "    sys.argv[:] = ['diffusion-lab', *words, '--help']\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, words\n"
        "    assert not heavy & set(sys.modules), (words, heavy & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: diffusion-lab registry" in done.stdout
    assert "usage: diffusion-lab figures" in done.stdout
    assert "usage: diffusion-lab monitor" in done.stdout


def test_what_starts_again_finds_the_command_by_its_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning and sweeps start `sys.argv[0]` with `sys.argv[1:]`."""
    code = 0
    try:
        code, _, _ = called(monkeypatch, capsys, "inpaint", "image=no.png")
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 1
    assert sys.argv == [str(cli.COMMANDS / "inpaint.py"), "image='no.png'"]
    # A person is told of the command that they typed.
    assert capsys.readouterr().err == "error: diffusion-lab inpaint needs mask=...\n"


def test_messages_name_the_command_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "train one with train.py, or evaluate.py; not /my/train.py, constrain.py or my-train.py"
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py")])
    assert cli.as_called(said) == said
    monkeypatch.setattr(sys, "argv", [str(cli.COMMANDS / "train.py")])
    told = (
        "train one with diffusion-lab train, or diffusion-lab evaluate; not /my/train.py, constrain.py or my-train.py"
    )
    assert cli.as_called(said) == told


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("diffusion-lab ", set(commands.MODULES)),
        ("diffusion-lab re", {"restore", "registry"}),
        ("diffusion-lab registry l", set()),
        ("diffusion-lab train schedule=co", {"schedule=cosine", "schedule=constant"}),
        ("diffusion-lab train model=unet schedule=co", {"schedule=cosine", "schedule=constant"}),
        ("diffusion-lab train trainer.max_s", {"trainer.max_steps="}),
        ("diffusion-lab train --config-dir OWN schedule=m", {"schedule=mine"}),
        ("diffusion-lab inpaint sampler=ddnm", {"sampler=ddnm"}),
    ],
)
def test_the_shell_is_told_what_may_stand_there(
    line: str,
    choices: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "schedule").mkdir()
    shutil.copy(ROOT / "conf" / "schedule" / "cosine.yaml", tmp_path / "schedule" / "mine.yaml")
    monkeypatch.setenv("COMP_LINE", line.replace("OWN", str(tmp_path)))
    code, out, err = called(monkeypatch, capsys, "-sc", "query=bash")
    assert (code, err) == (0, "")
    assert set(out.split()) == choices


def test_bash_completes_by_it(tmp_path: Path) -> None:
    """The shell's own answer to Tab, by the script that the command writes."""
    (tmp_path / "diffusion-lab").write_text(
        f"#!{sys.executable}\nimport sys\nfrom diffusion_lab.commands import main\nsys.exit(main())\n"
    )
    (tmp_path / "diffusion-lab").chmod(0o755)
    typed = 'COMP_LINE="diffusion-lab train sampler=rep"; COMP_POINT=${#COMP_LINE}; COMP_CWORD=2'
    program = (
        'eval "$(diffusion-lab -sc install=bash)"; complete -p diffusion-lab; '
        f'{typed}; COMP_WORDS=($COMP_LINE); hydra_bash_completion; echo "${{COMPREPLY[@]}}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, env=environment)
    how, answer = done.stdout.splitlines()
    assert how.endswith("-F hydra_bash_completion diffusion-lab"), done
    assert set(answer.split()) == {"sampler=repaint", "sampler=replacement"}, done
