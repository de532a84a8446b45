"""Download the pretrained weights of the chosen model, or note that there are none."""

from pneumonia import backbone, params
from pneumonia.models import networks
from pneumonia.tracking import runs
from stages import DATA_DIR, run, show, tracked


def main() -> None:
    settings = params.load()
    row = networks.model_row(settings.model)
    with tracked("backbone", settings):
        weights = backbone.fetch_weights(row.weights_urls, settings.weights, DATA_DIR / "backbone")
        runs.tag(weights=weights.name)
        runs.log_file(DATA_DIR / "backbone" / "backbone.json")
    show(f"{settings.model}: {'pretrained weights: ' + weights.name if row.weights_urls else 'no backbone'}")


if __name__ == "__main__":
    run(main)
