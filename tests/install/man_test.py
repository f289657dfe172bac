"""The man pages: clean to two linters, and complete."""
import glob
import os
import re
import shutil
import subprocess

from harness import HELPERS, Skip, expect

PAGES = sorted(glob.glob(os.path.join(HELPERS, "man", "*.[0-9]")))


def text_of(page):
    with open(os.path.join(HELPERS, "man", page), encoding="ascii") as file:
        return file.read()


def test_the_linters_are_silent(new_home):
    expect(len(PAGES) == 4, f"pages: {PAGES}")
    for tool in ("mandoc", "man"):
        if not shutil.which(tool):
            raise Skip(f"no {tool}")
    for page in PAGES:
        if text_of(os.path.basename(page)).startswith(".so "):
            continue
        # Whether a page that is referred to is installed here says nothing of this one.
        result = subprocess.run(["mandoc", "-T", "lint", page], capture_output=True, text=True, check=False)
        said = [line for line in result.stdout.splitlines() if "referenced manual not found" not in line]
        expect(not said, f"mandoc: {said}")
        result = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", page], capture_output=True, text=True,
                                check=False, env={**os.environ, "MANROFFSEQ": "", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"})
        expect(result.returncode == 0 and not result.stderr, f"man: {result.stderr}")
        expect(len(result.stdout) > 1000, "it is rendered")


def test_every_command_and_every_option_has_its_words(new_home):
    limaquota = new_home().limaquota

    def help_of(*words):
        return subprocess.run([limaquota, *words, "--help"], capture_output=True, text=True, check=True).stdout

    page = text_of("limaquota.1")
    commands = re.findall(r"^  (\S+)", help_of().split("Subcommands:\n")[1].split("\n\n")[0], re.MULTILINE)
    expect("mount" in commands, f"commands: {commands}")
    described = re.findall(r"^\.It Ic (\S+)", page, re.MULTILINE)
    missing = [name for name in commands if name not in described]
    expect(not missing, f"limaquota(1) does not describe {missing}")
    for command in commands:
        options = re.findall(r"^  (?:-\w,)?--([a-z-]+)", help_of(command), re.MULTILINE)
        words = page.split(f"\n.It Ic {command}", 1)[1].split("\n.It Ic ", 1)[0] + page.split("Options of all commands")[1]
        missing = [option for option in options if f"Fl -{option}" not in words]
        expect(not missing, f"limaquota(1), {command}: nothing on {missing}")


def test_every_key_of_the_files_has_its_words(new_home):
    home = new_home()
    home.add_vm("vm", "raw", 1)
    home.mount()
    page = text_of("limaquota.5")
    for name in ("vm", "_host"):
        with open(os.path.join(home.mountpoint, ".usage", name), encoding="utf-8") as file:
            keys = {line.split(" ")[0] for line in file}
        missing = {key for key in keys if not re.search(rf"^\.(It )?Cm .*\b{key}\b", page, re.MULTILINE)}
        expect(keys and not missing, f"limaquota(5) on .usage/{name}: nothing on {missing}")
    home.close()
