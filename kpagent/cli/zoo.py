"""`kpagent zoo`: what keypoints are shipped."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from kpagent.cli.terminal import console


@dataclass(frozen=True)
class Zoo:
    """List the shipped weights with their figures."""

    def run(self) -> int:
        """Print the table; precision and recall are those of tracks of 200 frames."""
        from kpagent.perception.zoo import shipped

        table = Table("name", "environment", "K", "image", "steps", "held-out loss / copying", "precision", "recall")
        for name, header in shipped().items():
            config, about = header["config"], header["provenance"]
            held_out = about.get("held_out", {})
            ratio = f"{held_out['loss'] / held_out['copy_loss']:.3f}" if held_out else ""
            found = about.get("tracking", {})
            scores = [f"{found[f'{name}@200']:.2f}" if found else "" for name in ("precision", "recall")]
            size = f"{config['image_size']}×{config['image_size']}"
            row = (name, about.get("env", ""), config["num_keypoints"], size, about.get("steps", ""), ratio, *scores)
            table.add_row(*map(str, row))
        console.print(table)
        return 0
