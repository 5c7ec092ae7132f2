//! Nothing here: see the targets beside this folder.
