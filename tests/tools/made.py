"""Makes the models of the tests, which needs torch; the tests of the runtime only use them.

python tests/tools/made.py FOLDER    # for environments without torch: GATEKEEPER_MADE=FOLDER
"""

import sys
from pathlib import Path

LABELS = [str(i) for i in range(10)]


def write_small(path):
    return _write("small-cnn", 3, path)


def write_large(path):
    return _write("resnet-20", 4, path)


def _write(kind, seed, path):
    from train.models import build, save

    save(build(kind, labels=LABELS, image_size=(8, 8), seed=seed), path)
    return path


def write_bundle(checkpoint, path):
    from export.commands.build import BuildSettings

    goal = {"calibrate": "digits", "target_deferral": 0.3}
    BuildSettings(checkpoint=checkpoint, out=path, **goal).run()


def main(folder):
    for name, write in {"small": write_small, "large": write_large}.items():
        write_bundle(write(folder / f"{name}-checkpoint"), folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
