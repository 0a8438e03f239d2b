"""The MONAI Label app: the mass segmenter to infer by and to train.

`python -m pig_monai.monai_label_app` copies this file and the bundle into a folder that MONAI Label starts. It
runs in MONAI Label's environment, where nothing of pig-monai is installed. MONAI Label's own `monaibundle` app
serves the bundle as well, but asks the internet for it and for models of its own unless told not to, and takes a
training only from clients that send every option.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import dicom_seg  # beside this file
import monailabel.datastore.dicom
import monailabel.endpoints.infer
from monai.transforms import LoadImage
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask

NAME = "pig_dbt"

# MONAI Label has no hook for its converter: these are the two places that call it
for module in (monailabel.datastore.dicom, monailabel.endpoints.infer):
    module.nifti_to_dicom_seg = dicom_seg.nifti_to_dicom_seg


class Training(BundleTrainTask):
    """A training by the bundle's train.yaml."""

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Train on one device; an option that the client leaves out has the value that it would have shown.

        Asked for several GPUs, MONAI Label ends without a training and without a word: the bundle has no
        configuration for them.
        """
        shown = {name: value[0] if isinstance(value, list) else value for name, value in self.config().items()}
        given = {name: value for name, value in request.items() if value is not None}
        return super().__call__({**shown, **given, "run_id": "run", "multi_gpu": False}, datastore)

    def _partition_datalist(self, datalist: list[Any], request: dict[str, Any], shuffle: bool = False) -> Any:
        """Refuse a training that has nothing to train on, or nothing to choose the best weights by."""
        trained_on, held_out = super()._partition_datalist(datalist, request, shuffle)
        if not trained_on or not held_out:
            raise MONAILabelException(
                MONAILabelError.INVALID_INPUT,
                f"{len(datalist)} studies with a final label leave {len(trained_on)} to train on and "
                f"{len(held_out or [])} to validate on; label more, or choose val_split between 0 and 1",
            )
        if not any((LoadImage()(study["label"]) > 0).any() for study in held_out):
            raise MONAILabelException(
                MONAILabelError.INVALID_INPUT,
                f"none of the {len(held_out)} studies to validate on, the last ones, has a mass, and without one"
                " nothing tells good weights from bad; label more, or choose another val_split",
            )
        return trained_on, held_out

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Have model.json say what is true here: no dataset folder, and no fold that was held out."""
        overrides.update(dataset_dir="", fold=-1)
        return overrides

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[Any]) -> None:
        """Start from the served weights; MONAI Label crashes here where the client wants fresh ones."""
        if pretrained:
            super()._load_checkpoint(model_pytorch, pretrained, train_handlers)


class MassSegmenterApp(MONAILabelApp):
    """One model and one trainer, both of them the bundle's mass segmenter.

    Args:
        app_dir: this file's folder; the bundle is in model/pig_dbt.
        studies: folder of studies, or the address of a PACS's DICOMweb service.
        conf: what --conf says; the app has no settings of its own.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundle = str(Path(app_dir) / "model" / NAME)
        super().__init__(
            app_dir, studies, conf, name="pig-monai", description="Masses in digital breast tomosynthesis"
        )

    def init_infers(self) -> dict[str, InferTask]:
        """Return the segmenter."""
        return {NAME: BundleInferTask(self.bundle, self.conf, load_strict=True)}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Return the segmenter's training."""
        return {NAME: Training(self.bundle, self.conf)}

    def _init_dicomweb_datastore(self) -> Datastore:
        """Fetch series as they are stored: DBT is compressed, and many a PACS cannot decompress it."""
        store = super()._init_dicomweb_datastore()
        client = store._client
        client.retrieve_series = partial(client.retrieve_series, media_types=(("application/dicom", "*"),))
        return store

    def _download_dcmqi_tools(self) -> None:
        """Download nothing: dcmqi, which MONAI Label would fetch from the internet, is not called."""

    def init_strategies(self) -> dict[str, Strategy]:
        """Return the ways to choose the next study to label."""
        return {"random": Random(), "first": First()}
