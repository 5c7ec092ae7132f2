# Sourced: how to run a Ruby that was unpacked beside the system's and not into it.
root=$PEERS_PREFIX/root/usr
arch=$(cd "$root/lib" && ls -d *-linux-gnu*)
lib=$root/lib/$arch
export LD_LIBRARY_PATH=$lib
export RUBYLIB=$root/lib/ruby/vendor_ruby:$root/lib/ruby/vendor_ruby/3.1.0:$root/lib/ruby/3.1.0:$lib/ruby/3.1.0:$lib/ruby/vendor_ruby/3.1.0
export GEM_PATH=$root/share/rubygems-integration/all:$lib/rubygems-integration/3.1.0:$root/lib/ruby/gems/3.1.0
RUBY=$root/bin/ruby3.1
PUMA=$root/bin/puma
