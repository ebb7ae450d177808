module bge

go 1.19
