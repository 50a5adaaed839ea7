// The block RAM of ECP5, for simulation: what Lattice's memory usage guide (FPGA-TN-02204) says of
// DP16KD as a memory of one write port (A) and one read port (B) of the same clock, without output
// registers; with the halves of 36 bits as Yosys maps them (+/lattice/brams_map_16kd.v). Yosys has
// this cell only as a black box. Whatever is not modelled ends the simulation.
//
// 1024 words of 18 bits, which are two bytes of 9. A port of 1, 2, 4 or 9 bits sees a part of a
// byte (all but the last leave its ninth bit alone); a write port of 18 bits has the byte enables at
// the lowest two pins of its address. 36 bits are two words: DIA and DOA the lower, DIB and DOB
// the upper one. Bits that are read in the cycle in which they are written are unknown.
`timescale 1ns / 1ps
module DP16KD (
  input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
    DIA4, DIA3, DIA2, DIA1, DIA0,
  input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5,
    DIB4, DIB3, DIB2, DIB1, DIB0,
  input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
  input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
  input CLKA, CEA, OCEA, WEA, RSTA, CSA2, CSA1, CSA0,
  input CLKB, CEB, OCEB, WEB, RSTB, CSB2, CSB1, CSB0,
  output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5,
    DOA4, DOA3, DOA2, DOA1, DOA0,
  output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5,
    DOB4, DOB3, DOB2, DOB1, DOB0
);
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
  parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG";
  parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000", CLKAMUX = "CLKA", CLKBMUX = "CLKB";
  // Of no effect here: what a port shows that writes, and how resets work.
  parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL";
  parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", GSR = "ENABLED";
  parameter [319:0]
    INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0,
    INITVAL_04 = 0, INITVAL_05 = 0, INITVAL_06 = 0, INITVAL_07 = 0,
    INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0,
    INITVAL_0C = 0, INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0,
    INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0,
    INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0,
    INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0,
    INITVAL_1C = 0, INITVAL_1D = 0, INITVAL_1E = 0, INITVAL_1F = 0,
    INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0, INITVAL_23 = 0,
    INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0,
    INITVAL_28 = 0, INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0,
    INITVAL_2C = 0, INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0,
    INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0,
    INITVAL_34 = 0, INITVAL_35 = 0, INITVAL_36 = 0, INITVAL_37 = 0,
    INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0,
    INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0;
  // Each has 16 words, a word in 20 bits.
  localparam [20479:0] INIT = {
    INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39, INITVAL_38,
    INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30,
    INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28,
    INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20,
    INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18,
    INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10,
    INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
    INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01, INITVAL_00
  };

  wire [13:0] ada = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2,
    ADA1, ADA0};
  wire [13:0] adb = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2,
    ADB1, ADB0};
  wire [17:0] dia = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7,
    DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
  wire [17:0] dib = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7,
    DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};

  initial
    if (REGMODE_A != "NOREG" || REGMODE_B != "NOREG" || CLKAMUX != "CLKA" || CLKBMUX != "CLKB"
        || CSDECODE_A != "0b000" || CSDECODE_B != "0b000")
      $fatal(1, "%m: a mode of DP16KD that is not modelled");
  always @(posedge CLKA)
    if (CLKB !== 1'b1 || WEB || RSTA || RSTB || CSA2 || CSA1 || CSA0 || CSB2 || CSB1 || CSB0)
      $fatal(1, "%m: a use of DP16KD that is not modelled");

  // Where the part of a word begins that a port sees, and how long it is.
  function [4:0] offset(input integer width, input [3:0] address);
    case (width)
      1: offset = 9 * address[3] + address[2:0];
      2: offset = 9 * address[3] + 2 * address[2:1];
      4: offset = 9 * address[3] + 4 * address[2];
      9: offset = 9 * address[3];
      default: offset = 0;
    endcase
  endfunction
  function [17:0] part(input integer width);
    part = width >= 18 ? 18'h3FFFF : (18'd1 << width) - 18'd1;
  endfunction

  reg [17:0] memory [0:1023];
  integer i;
  initial for (i = 0; i < 1024; i = i + 1) memory[i] = INIT[20 * i +: 18];

  wire [9:0] to = {ada[13:5], DATA_WIDTH_A != 36 && ada[4]};
  wire [9:0] from = {adb[13:5], DATA_WIDTH_B != 36 && adb[4]};
  wire [4:0] place = offset(DATA_WIDTH_A, ada[3:0]);
  wire [17:0] enables = {{9{ada[1]}}, {9{ada[0]}}}, upper_enables = {{9{ada[3]}}, {9{ada[2]}}};
  wire [17:0] mask = !(CEA && WEA) ? 18'd0
                     : DATA_WIDTH_A >= 18 ? enables : part(DATA_WIDTH_A) << place;
  wire [17:0] upper_mask = CEA && WEA && DATA_WIDTH_A == 36 ? upper_enables : 18'd0;

  // What is read of a word.
  function [17:0] known(input [9:0] word);
    reg [17:0] clash;
    begin
      clash = (word == to ? mask : 18'd0) | (word == (to | 10'd1) ? upper_mask : 18'd0);
      known = (memory[word] & ~clash) | (clash & 18'bx);
    end
  endfunction

  reg [17:0] lower = 0, upper = 0;
  always @(posedge CLKA) begin
    if (mask) memory[to] <= (memory[to] & ~mask) | (dia << place & mask);
    if (upper_mask)
      memory[to | 10'd1] <= (memory[to | 10'd1] & ~upper_mask) | (dib & upper_mask);
    if (CEB) begin
      lower <= known(from) >> offset(DATA_WIDTH_B, adb[3:0]) & part(DATA_WIDTH_B);
      upper <= known(from | 10'd1);
    end
  end

  // Port A only writes; what it shows is unknown.
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5,
    DOA4, DOA3, DOA2, DOA1, DOA0} = DATA_WIDTH_B == 36 ? lower : 18'bx;
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5,
    DOB4, DOB3, DOB2, DOB1, DOB0} = DATA_WIDTH_B == 36 ? upper : lower;
endmodule
