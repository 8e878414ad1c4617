from keras_cnnlstm.benchmark.run import Measured as Measured
from keras_cnnlstm.benchmark.run import benchmark as benchmark
from keras_cnnlstm.benchmark.timings import interleaved as interleaved
