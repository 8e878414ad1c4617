from keras_cnnlstm.demo.drawings import as_digit as as_digit
from keras_cnnlstm.demo.drawings import as_strip as as_strip
from keras_cnnlstm.demo.drawings import draw_strokes as draw_strokes
from keras_cnnlstm.demo.drawings import look_of as look_of
from keras_cnnlstm.demo.server import serve as serve
from keras_cnnlstm.demo.session import DemoAnswers as DemoAnswers
