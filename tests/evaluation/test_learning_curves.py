"""Histories read back, and which class was learned last."""

import pytest

from keras_cnnlstm.evaluation.learning_curves import read_history, read_recalls, slowest_learned


def test_what_a_training_wrote_is_read(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n1,2.5,2.0\n2,1.5,1.25\n")
    (tmp_path / "recall.csv").write_text('epoch,"a, b",c\n1,0.5,\n2,1.0,0.25\n')
    assert read_history(tmp_path)[1] == {"epoch": 2, "loss": 1.5, "val_loss": 1.25}
    assert read_recalls(tmp_path) == {"a, b": [0.5, 1.0], "c": [None, 0.25]}


def test_a_run_without_these_files_has_none(tmp_path):
    assert read_history(tmp_path) == []
    assert read_recalls(tmp_path) == {}


@pytest.mark.parametrize("text", ["epoch,a\n1,high\n", "epoch,a\n1,0.5,0.5\n", 'epoch,a\n1,"0.5\n'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "recall.csv").write_text(text)
    with pytest.raises(ValueError, match=r"recall\.csv: expected a CSV file of numbers; "):
        read_recalls(tmp_path)


def test_the_slowest_class_by_hand():
    recalls = {
        "early": [0.8, 1.0, 1.0, 1.0],
        "late": [0.0, 0.2, 0.85, 0.9],
        "never": [0.0, 0.0, 0.0, 0.0],
        "absent": [None, None, None, None],
        "rare": [None, 0.5, None, 1.0],
    }
    rows = slowest_learned(recalls)
    assert [row["name"] for row in rows] == ["never", "late", "rare", "early"]
    assert [row["learned"] for row in rows] == [None, 3, 4, 2]
    assert rows[1]["mean_recall"] == pytest.approx(1.95 / 4)
    assert rows[2]["last_recall"] == 1.0
