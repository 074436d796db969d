"""Options that several commands share, each declared once.

A decorator here adds a group of options, and hands the command one typed object in place of them.
"""

from __future__ import annotations

from jobs.commands.options.command import PromptsgCommand as PromptsgCommand
from jobs.commands.options.declared import HEADS_HELP as HEADS_HELP
from jobs.commands.options.declared import PRECISION_HELP as PRECISION_HELP
from jobs.commands.options.declared import allow_pipes_option as allow_pipes_option
from jobs.commands.options.declared import allow_remote_option as allow_remote_option
from jobs.commands.options.declared import device_option as device_option
from jobs.commands.options.declared import echo as echo
from jobs.commands.options.declared import evaluation_option as evaluation_option
from jobs.commands.options.declared import json_option as json_option
from jobs.commands.options.declared import next_step as next_step
from jobs.commands.options.declared import opening as opening
from jobs.commands.options.declared import option_group as option_group
from jobs.commands.options.declared import option_with_default as option_with_default
from jobs.commands.options.declared import precision_option as precision_option
from jobs.commands.options.declared import run_argument as run_argument
from jobs.commands.options.declared import shards_root_option as shards_root_option
from jobs.commands.options.model import camera_options as camera_options
from jobs.commands.options.model import head_and_camera_options as head_and_camera_options
from jobs.commands.options.model import image_size_option as image_size_option
from jobs.commands.options.model import model_options as model_options
from jobs.commands.options.model import prompt_option as prompt_option
from jobs.commands.options.model import prompt_set_option as prompt_set_option
from jobs.commands.options.model import target_option as target_option
from jobs.commands.options.model import weights_key_option as weights_key_option
from jobs.commands.options.pictures import looks_options as looks_options
from jobs.commands.options.pictures import picture_height_option as picture_height_option
from jobs.commands.options.pictures import stored_pictures_options as stored_pictures_options
from jobs.commands.options.selection import selection_options as selection_options
