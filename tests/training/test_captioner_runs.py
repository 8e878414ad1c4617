"""A captioner from its options to its captions: trained, resumed, scored, asked and exported."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
from oracles import assert_all_equal
from power_cut import break_off

from keras_cnnlstm.cli import main
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.captions import caption_task, captioned, clip_captions
from keras_cnnlstm.data.clips import find_clips
from keras_cnnlstm.data.datasets import LabeledImages
from keras_cnnlstm.data.sources import open_source, other_tests
from keras_cnnlstm.data.synthetic_clips import moving_digits, write_clips
from keras_cnnlstm.export.artifact import load_artifact
from keras_cnnlstm.export.exporter import export
from keras_cnnlstm.export.predictor import open_predictor, run_predictor
from keras_cnnlstm.models.captioner import captioner
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.decoding import greedy_model
from keras_cnnlstm.models.encoders import conv_pool
from keras_cnnlstm.tasks.answers import answer_dict, answer_text, headline
from keras_cnnlstm.tasks.captions import TrendCaption
from keras_cnnlstm.tasks.metrics import caption_accuracy
from keras_cnnlstm.tasks.vocabulary import SPECIAL, Vocabulary
from keras_cnnlstm.training.build import adopt_weights, build_model
from keras_cnnlstm.training.objectives import objective_for
from keras_cnnlstm.training.run_directory import Run, load_run, new_run_dir, save_model
from keras_cnnlstm.training.scoring import batches_to_score, score
from keras_cnnlstm.training.trainer import train

OPTIONS = {
    "model": "captioner", "length": 2, "encoder": "small_cnn", "lstm_units": (8,), "dropout": 0.3,
    "epochs": 2, "steps_per_epoch": 4, "batch_size": 8, "checkpoint_steps": 3,
    "validation_sequences": 16, "test_sequences": 50, "precision": "float32",
}  # fmt: skip


def config(path, **changes):
    return TrainConfig(**(OPTIONS | {"run_dir": str(path)} | changes))


PACKAGES = {"litert": ["ai_edge_litert"], "onnx": ["tf2onnx", "onnxruntime"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(config(tmp_path_factory.mktemp("described") / "run"))


@pytest.fixture
def command(capsys):
    """Runs the command line, and returns its exit code and what it printed."""

    def command(*tokens):
        code = main.main([str(word) for word in tokens])
        out, err = capsys.readouterr()
        return code, out if code == 0 else err

    return command


def images(run):
    return sorted((run.path / "example").iterdir())


def test_a_run_keeps_its_words_and_scores(run):
    vocabulary = TrendCaption(2).vocabulary
    opened = load_run(run.path)
    assert opened.task == TrendCaption(2)
    assert opened.class_names == vocabulary.names
    assert set(run.metrics["test"]) == {"natural", "balanced"}
    scored = run.metrics["test"]["natural"]
    assert scored.keys() == {"num_sequences", "accuracy", "accuracy_95", "word_accuracy", "bleu"}
    assert scored["num_sequences"] == 50
    assert not (run.path / "calibration.json").exists()


@pytest.mark.slow
def test_a_run_that_broke_off_ends_as_if_it_had_not(run, tmp_path):
    break_off(config(tmp_path / "run"), 6)
    resumed = train(config(tmp_path / "run"), resume=True)
    assert resumed.metrics["test"] == run.metrics["test"]
    assert_all_equal(resumed.model.get_weights(), run.model.get_weights())
    assert (resumed.path / "history.csv").read_bytes() == (run.path / "history.csv").read_bytes()


def test_the_accuracy_of_the_validation_is_that_of_what_is_said():
    """Judged by each next word after the right ones, which costs no search."""
    task = TrendCaption(2, 3)
    tokens = task.tokens(np.random.default_rng(0).integers(0, 3, (400, 2)))
    noise = np.random.default_rng(1).random((400, task.max_tokens, len(task.vocabulary)))
    right = np.eye(len(task.vocabulary))[tokens]
    answers = noise + 0.8 * right
    expected = [
        all(max(range(3, len(p)), key=p.__getitem__) == w for p, w in zip(a, row, strict=True) if w)
        for a, row in zip(answers, tokens, strict=True)
    ]
    np.testing.assert_array_equal(caption_accuracy(tokens, answers), np.array(expected, "float32"))
    assert 20 < sum(expected) < 380


def test_padding_neither_counts_in_the_loss_nor_dilutes_it():
    tokens = np.array([[4, 3, 0, 0], [4, 5, 5, 3]])
    answers = np.random.default_rng(0).dirichlet(np.ones(6), (2, 4)).astype("float32")
    counted = [-np.log(p[w]) for row, a in zip(tokens, answers, strict=True)
               for w, p in zip(row, a, strict=True) if w]  # fmt: skip
    loss = objective_for(TrendCaption(2)).loss(tokens, answers)
    assert float(loss) == pytest.approx(np.mean(counted), rel=1e-5)


def test_training_data_are_digits_and_the_words_before(run):
    source = open_source(run.config)
    inputs, tokens = next(iter(source.training()))
    assert {name: tuple(x.shape) for name, x in inputs.items()} == {
        "frames": (8, 2, 28, 28, 1), "tokens": (8, source.task.max_tokens)
    }  # fmt: skip
    np.testing.assert_array_equal(inputs["tokens"][:, 1:], tokens[:, :-1])
    assert (inputs["tokens"][:, 0].numpy() == 1).all()


@pytest.mark.parametrize(("changes", "shape", "said"), [
    ({"length": 1}, (28, 28, 1), "a seven"),
    ({"length": 3}, (3, 28, 28, 1), "seven, seven, seven: constant"),
])  # fmt: skip
def test_what_is_described_follows_from_the_length(changes, shape, said):
    options = TrainConfig(**OPTIONS | changes)
    source = open_source(options)
    model = build_model(options, source.task, source.frame_shape)
    assert model.inputs[0].shape[1:] == shape
    frames, tokens = next(iter(source.tests(20)["natural"]))
    assert frames["frames"].shape[1:] == shape
    assert len(source.task.vocabulary.decode(tokens[0].numpy()).split()) >= 2
    seven = source.task.tokens(np.full((1, *[3] * (options.length > 1)), 7))[0]
    assert source.task.vocabulary.decode(seven) == said


def test_asked_and_scored_by_the_commands(run, command):
    code, said = command("predict", run.path, *images(run))
    speaker = greedy_model(run.model)
    assert code == 0
    frames = next(iter(open_source(run.config).training()))[0]["frames"]
    assert speaker(frames)["tokens"].shape == (8, 6)
    assert said.strip() == open_predictor(run.path).answer_images(images(run))["caption"]
    code, told = command("predict", run.path, *images(run), "--beam", 3, "--json")
    assert json.loads(told).keys() == {"caption"}
    code, told = command("evaluate", run.path, "--num-sequences", 20)
    assert "natural test sequences" in told
    assert "of words, BLEU" in told


@pytest.mark.slow
def test_an_export_says_the_same_and_knows_its_words(run, tmp_path, command):
    export(run, tmp_path / "served")
    artifact = load_artifact(tmp_path / "served")
    assert artifact.class_names == run.class_names
    assert artifact.metadata["outputs"] == ["tokens", "log_probability"]
    assert artifact.metadata["task"]["name"] == "caption"
    code, said = command("predict", tmp_path / "served", *images(run))
    assert said.strip() == open_predictor(run.path).answer_images(images(run))["caption"]
    code, error = command("predict", tmp_path / "served", *images(run), "--beam", 2)
    assert code == 2
    assert "beam: expected a run directory, since an export" in error


@pytest.mark.parametrize(("format", "options"), [
    pytest.param("saved_model", {"input_shape": (None, 8, 8, 1), "attention": False},
                 marks=pytest.mark.slow),
    pytest.param("litert", {"lengths": True}, marks=pytest.mark.slow),
    ("onnx", {"input_shape": (8, 8, 1), "bidirectional": True}),
])  # fmt: skip
def test_every_format_holds_a_captioner(format, options, tmp_path):
    for package in {"litert": ["ai_edge_litert"], "onnx": ["tf2onnx", "onnxruntime"]}.get(
        format, ()
    ):
        pytest.importorskip(package)
    options = {
        "input_shape": (3, 8, 8, 1),
        "lstm_units": (5,),
        "encoder": conv_pool((3,)),
    } | options
    model = captioner(vocabulary_size=8, max_tokens=4, **options)
    names = (*SPECIAL, "a", "naïve", ",", "cat")
    assert (
        export(model, tmp_path / "out", format, class_names=names).parity["max_difference"] < 1e-5
    )
    signatures = load_artifact(tmp_path / "out").signatures
    shape = [size or 3 for size in model.inputs[0].shape[1:]]
    given = {"frames": np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)}
    if "lengths" in options:
        given["lengths"] = np.array([1, 2, 3, 3, 3], np.int32)
    answer = signatures["serving_default"](**given)
    expected = greedy_model(model)(given if "lengths" in given else given["frames"])
    np.testing.assert_array_equal(answer["tokens"], expected["tokens"])
    if format == "saved_model":
        said = [text.decode() for text in answer["caption"]]
        assert said == [answer_dict("tokens", row, names)["caption"] for row in answer["tokens"]]


def test_a_sentence_as_people_and_programs_read_it():
    told = answer_dict("tokens", np.array([4, 5, 3, 4]), (*SPECIAL, "a", "seven"))
    assert told == {"caption": "a seven"}
    assert answer_text(told) == headline(told) == "a seven"
    assert headline(answer_dict("tokens", np.array([3, 0]), SPECIAL)) == "(no words)"


def test_the_encoder_of_a_classifier_is_taken_over_and_stays_as_it_is(run, tmp_path):
    options = config(tmp_path / "reader", model="cnn_lstm", task="digits")
    source = open_source(options)
    model = build_model(options, source.task, source.frame_shape)
    save_model(model, new_run_dir(options) / "model.keras")
    reader = load_run(options.run_dir)
    assert adopt_weights(run.model, reader.model) == ["conv1", "conv2", "conv3", "lstm1"]
    told = train(config(tmp_path / "told", encoder=str(reader.path), epochs=1))
    frozen = told.model.get_layer("encoder").get_weights()
    assert_all_equal(frozen, reader.model.get_weights()[: len(frozen)])


class TestRefused:
    def test_other_words_than_the_model_was_taught(self, run, tmp_path):
        copy = tmp_path / "run"
        shutil.copytree(run.path, copy)
        file = copy / "task.json"
        stored = json.loads(file.read_text())
        for task, message in (
            ({"num_digits": 9}, r"task.json: expected a task with 19 outputs.* one with 18"),
            ({"length": "x"}, r"task.json: TrendCaption: `length` must be .*received 'x'"),
            ({"other": 1}, r"task.json: task: .*other"),
        ):
            file.write_text(json.dumps(stored | {"config": stored["config"] | task}))
            with pytest.raises(ValueError, match=message):
                _ = load_run(copy).class_names
        file.write_text(json.dumps({"task": "colour", "config": {}}))
        with pytest.raises(ValueError, match=r"task must be one of trend, .*received 'colour'"):
            _ = load_run(copy).class_names
        file.write_text("{")
        with pytest.raises(ValueError, match=r"task.json: expected .*JSON"):
            _ = load_run(copy).class_names
        file.unlink()
        with pytest.raises(FileNotFoundError, match=r"it has no task.json"):
            _ = load_run(copy).class_names

    def test_data_that_is_told_in_other_words(self, run):
        with pytest.raises(ValueError, match=r"data must have the classes of"):
            other_tests(config("x", length=3), run.task, "digits")

    @pytest.mark.parametrize(("options", "message"), [
        ({"task": "trend"}, "task must be caption with model captioner .*'trend'"),
        ({"length": 33}, "length must be 2 to 32 for the task caption; received 33"),
        ({"length": 1, "balance": 0.5}, "balance must be 0 for the task caption"),
    ])  # fmt: skip
    def test_options(self, options, message):
        from keras_cnnlstm.training.build import model_options

        with pytest.raises(ValueError, match=message):
            model_options(TrainConfig(**{"model": "captioner"} | options))

    def test_beams_of_what_says_no_sentences(self, tmp_path):
        reader = Run(tmp_path, config(tmp_path, model="cnn_lstm"), cnn_lstm(), {})
        with pytest.raises(ValueError, match="beam: expected a captioner"):
            run_predictor(reader, beam=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("own") / "clips"
    pictures = LabeledImages(rng.integers(100, 256, (6, 5, 5, 1), np.uint8), np.arange(6))
    write_clips(root, moving_digits(pictures, 6, canvas=10, min_frames=4, max_frames=8))
    return root


class TestClips:
    OPTIONS = OPTIONS | {
        "image_size": (10, 10), "color_mode": "grayscale", "length": 6, "groups": "^(.+?)_",
        "epochs": 1, "steps_per_epoch": None, "augmentation": "none",
    }  # fmt: skip

    def config(self, folder, path, **changes):
        return TrainConfig(**self.OPTIONS | {"data": str(folder), "run_dir": str(path)} | changes)

    def test_without_a_table_the_class_is_what_is_said(self, folder):
        clips = find_clips(folder)
        told = captioned(clips, clip_captions(folder))
        assert [c.class_name for c in told] == [c.class_name.replace("_", " ") for c in clips]

    @pytest.mark.slow
    def test_from_the_table_to_the_answer(self, folder, tmp_path, command):
        clips = find_clips(folder)
        root = tmp_path / "clips"
        shutil.copytree(folder, root)
        rows = [(c.name, f"it goes  {c.class_name}, and stops") for c in clips]
        with (root / "captions.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("clip", "caption"), *rows])
        run = train(self.config(root, tmp_path / "run"))
        tokens = set(run.class_names) - set(SPECIAL)
        assert tokens == {c.class_name for c in clips} | {"it", "goes", ",", "and", "stops"}
        assert not (run.path / "classes.json").exists()
        source = open_source(run.config, run.path)
        inputs, target = next(iter(source.tests()["clips"]))
        truth = [source.task.vocabulary.decode(row) for row in target.numpy()]
        expected = dict(rows)
        tested = [expected[c.name].replace("  ", " ") for c in source.split.test]
        assert truth == tested[: len(truth)]
        assert inputs["lengths"].shape == (len(truth),)
        code, _ = command("predict", run.path, clips[0].path)
        assert code == 0
        tests, task, _ = batches_to_score(run, data=str(root))
        assert score(run.model, tests, task)["folder"]["num_sequences"] == len(clips)

    def test_words_that_no_clip_of_the_training_has_are_unknown(self, folder, tmp_path):
        source = open_source(self.config(folder, tmp_path / "run"))
        held_out = {clip.name for clip in source.split.test}
        captions = {
            clip.name: f"{'strange' if clip.name in held_out else 'usual'} {clip.class_name}"
            for part in source.split.values() for clip in part
        }  # fmt: skip
        known = Vocabulary.of(captions[clip.name] for clip in source.split.train)
        task = caption_task(captioned(find_clips(folder), captions), length=6, vocabulary=known)
        tokens = task.tokens(np.arange(len(task.class_names)))
        assert sum("<unknown>" in known.decode(row) for row in tokens) == 8

    def test_a_table_that_lacks_a_clip_or_has_another(self, folder, tmp_path):
        root = tmp_path / "clips"
        shutil.copytree(folder, root)
        names = [clip.name for clip in find_clips(folder)]
        table = root / "captions.csv"
        table.write_text("clip,caption\n" + "".join(f"{name},it moves\n" for name in names[1:]))
        with pytest.raises(ValueError, match=r"captions.csv: expected a caption for each clip"):
            clip_captions(root)
        table.write_text("clip,caption\n" + "".join(f"{n},it moves\n" for n in [*names, "x/y"]))
        with pytest.raises(ValueError, match=r"captions.csv: expected names of clips.*'x/y'"):
            clip_captions(root)
        table.write_text("clip,caption\n" + "".join(f"{name},it moves\n" for name in names))
        with pytest.raises(ValueError, match=r"expected two different captions or more; received"):
            open_source(self.config(root, tmp_path / "run"))


@pytest.mark.mnist
@pytest.mark.slow
def test_nineteen_in_twenty_sentences_on_mnist_are_right(tmp_path):
    try:
        run = train(TrainConfig(
            data="mnist", model="captioner", encoder="small_cnn", learning_rate=0.002,
            epochs=10, run_dir=str(tmp_path / "run"),
        ))  # fmt: skip
    except ConnectionError as error:
        pytest.skip(str(error))
    assert run.metrics["test"]["natural"]["accuracy"] > 0.95
    assert keras.backend.backend() == "tensorflow"
