"""Make a phantom: tomosynthesis volumes with masses and their masks, to try every command without patient data."""

from __future__ import annotations

from pig_monai.cli import as_bool, run_command
from pig_monai.data.phantom_dicom import write_phantom


def make_phantom(
    *,
    output: str,
    patients: int,
    seed: int,
    contrast: float | None = None,
    slices: int = 16,
    rows: int = 384,
    columns: int = 256,
    views: str | tuple[str, ...] | None = None,
    compression: str = "none",
    overwrite: bool | str = False,
) -> None:
    """Write a phantom data set: DICOM tomosynthesis volumes, one NIfTI mask each, and phantom.json.

    Nobody was imaged: the breasts are drawn by formula, to try and test the commands with. They say nothing about
    patients. Of any five patients in a row one has no mass, one has two and three have one; a lesion-free volume
    has an empty mask. The same settings give the same bytes, and the first patients stay the same when more are
    asked for.

    Example:
        python data_prep/make_phantom.py --output runs/phantom --patients 40 --seed 0

    Args:
        output: folder to fill with dicom/*.dcm, masks/*.nii.gz (same stems) and phantom.json.
        patients: how many patients.
        seed: whole number, 0 or more; another seed draws other patients.
        contrast: brightness of every mass above fibroglandular tissue, from 0 to 3. Clearly visible at 1 (about
            the step from fat to fibroglandular tissue), hard to find at 0.4, absent at 0. By default drawn from
            0.9 to 1.3 for each mass.
        slices: frames of a volume, through the whole breast of 44 to 60 mm; 50 gives a clinical 1 mm or so.
        rows: pixels down a frame. 384 gives 0.5 mm pixels; 2457 with columns 1890 gives clinical 0.08 mm.
        columns: pixels across a frame.
        views: views of every patient, some of lcc,lmlo,rcc,rmlo with commas between. By default CC and MLO
            of one breast, of both for every fourth patient.
        compression: none, j2k (JPEG 2000), jpegls (JPEG-LS) or rle; all lossless.
        overwrite: true replaces an earlier phantom in the folder; other files stay.
    """
    chosen = views if views is None or isinstance(views, tuple) else str(views).split(",")
    record = write_phantom(
        str(output),
        patients,
        seed,
        contrast=contrast,
        slices=slices,
        rows=rows,
        columns=columns,
        views=chosen,
        compression=str(compression),
        overwrite=as_bool(overwrite, "overwrite"),
        progress=True,
    )
    lesions = sum(len(volume["lesions"]) for volume in record["volumes"])
    print(f"{len(record['volumes'])} volumes of {patients} patients, showing {lesions} masses, in {output}")


if __name__ == "__main__":
    run_command(make_phantom)
