# Builds for 64-bit ARM on another Debian machine and runs the tests in an emulator:
#
#   scripts/setup test arm64 && scripts/arm64-libraries build-arm64/root
#   cmake -S . -B build-arm64 -G Ninja --toolchain scripts/arm64.cmake && cmake --build build-arm64
#   ctest --test-dir build-arm64 -R '^(base|mil|kernel|device)\.'
#
# -DANNEAL_CROSS_COMPILER=clang-14 takes clang, with gcc's headers and libraries.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(target aarch64-linux-gnu)

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ANNEAL_CROSS_COMPILER)
if(ANNEAL_CROSS_COMPILER)
  set(CMAKE_C_COMPILER ${ANNEAL_CROSS_COMPILER})
  set(CMAKE_C_COMPILER_TARGET ${target})
else()
  set(CMAKE_C_COMPILER ${target}-gcc)
endif()

# What scripts/arm64-libraries fetched, and nothing of this machine.
get_property(trying GLOBAL PROPERTY IN_TRY_COMPILE) # has a build folder of its own
if(NOT trying)
  set(root ${CMAKE_BINARY_DIR}/root)
  set(ENV{PKG_CONFIG_SYSROOT_DIR} ${root})
  set(ENV{PKG_CONFIG_LIBDIR} ${root}/usr/lib/${target}/pkgconfig)
endif()
set(CMAKE_FIND_ROOT_PATH /usr/${target} ${root})
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# "max" has every extension that the emulator knows.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -cpu max -L /usr/${target})
