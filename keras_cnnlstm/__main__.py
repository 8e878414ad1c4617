"""`python -m keras_cnnlstm` is the command `keras-cnnlstm`."""

import sys

from keras_cnnlstm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
